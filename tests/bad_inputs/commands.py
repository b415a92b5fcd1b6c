"""Bad inputs of the verbs after `viscera prepare`: recipes, runs, weights, scans, label maps, names; mixed data sets."""

from pathlib import Path

from bad_inputs.files import (
    PICKLE,
    BadInput,
    bad_bytes,
    copies,
    cut_off,
    damaged_case,
    edited_cases,
    edited_recipe,
    exchanged_splits,
    hu,
    nifti,
    no_training_cases,
    organs,
    other_space,
    other_weights,
    pair,
    predictions,
    text,
)

SCAN = "data/Image/Case_00002_0000.nii.gz"
TRAIN = "train recipe.json store"
TRAIN_MIXED = "train partial.json mixed"
PREPARE = "prepare new --data abdomenct1k=data --recipe recipe.json --jobs 1"
PSEUDOLABEL = "pseudolabel teacher0 teacher1 mixed"
PREDICT = "predict scan.nii.gz out.nii.gz --weights run"
BEST = "run/best.safetensors"


TRAINING = [
    BadInput(
        "misspelt organ of which components are to be kept",
        f"{TRAIN} new --postprocessing.largest-components livr 1",
        r"no 'livr'. Did you mean 'liver'",
    ),
    BadInput(
        "a batch that the devices cannot share",
        f"{TRAIN} new --machine.devices 3",
        r"batch_size 4 cannot be shared by 3 devices. It is that of all devices together: take --training.batch-size 3",
    ),
    BadInput("no threads", f"{TRAIN} new --machine.threads 0", r"machine.threads 0: each must be at least 1"),
    BadInput("misspelt recipe", "train zhang2 store new", r"no recipe 'zhang2'. Did you mean 'zhang2d'"),
    BadInput("misspelt setting", f"{TRAIN} new --training.epoch 3", r"--training.epoch\b.*--training.epochs"),
    BadInput("setting that is not a number", f"{TRAIN} new --training.epochs many", r"--training.epochs.*many"),
    BadInput("setting out of range", f"{TRAIN} new --training.batch-size 0", r"training.batch_size.*1.*got 0"),
    BadInput(
        "setting misspelt in a recipe.json",
        "train edited.json store new",
        r"edited.json: there is no setting 'training.epoch'. Did you mean 'training.epochs'",
        lambda: edited_recipe(training={"epoch": 3}),
    ),
    BadInput(
        "setting out of range in the recipe.json of another loss",
        "train edited.json store new",
        r"edited.json: loss.amplitude: .*greater than or equal to 0 \(got -3\)",
        lambda: edited_recipe(loss={"kind": "summed", "amplitude": -3}),
    ),
    BadInput(
        "recipe is not JSON",
        "train edited.json store new",
        r"edited.json: no recipe: Invalid JSON: .*line 1",
        lambda: text("edited.json", "{epochs}"),
    ),
    BadInput(
        "run's state is cut off",
        f"{TRAIN} run --resume --training.epochs 2",
        r"run/state.safetensors: .*damaged or cut off.*(train again|--overwrite)",
        lambda: cut_off("run/state.safetensors"),
        survives=BEST,
    ),
    BadInput(
        "store is missing", "train recipe.json nowhere new", r"nowhere is not a prepared store.*viscera prepare nowhere"
    ),
    BadInput(
        "a run stands there, no --resume", f"{TRAIN} run", r"run holds a run already. Pass --resume", survives=BEST
    ),
    BadInput(
        "resumed with another setting",
        f"{TRAIN} run --resume --training.learning-rate 0.1",
        r"begun with other settings: training.learning_rate was 0.0006, now 0.1",
        survives=BEST,
    ),
    BadInput(
        "recipe for another label space than the store's",
        "train zhang2d store new",
        r"store was prepared for label space 'abdomenct1k'.*not 'zhang12'.*Prepare another store",
    ),
    BadInput(
        "as many class weights as organs",
        f"{TRAIN} new --loss.class-weights 1 1 1 1",
        r"loss.class_weights has 4 numbers.*5 classes.*background first",
    ),
    BadInput(
        "teacher that is not there", f"{TRAIN} new --distil nowhere", r"no weights at nowhere. Give a run's folder"
    ),
    BadInput(
        "student that sees scans otherwise than its teacher",
        f"{TRAIN} new --distil run --network.slices 3",
        r"run cannot teach .*they see scans otherwise.*network.slices: 1, and the student's 3. Take the teacher's recipe",
    ),
    BadInput(
        "run resumed with a teacher that it was not begun with",
        f"{TRAIN} run --resume --training.epochs 2 --distil run",
        r"run was begun with another teacher.*train anew",
        survives=BEST,
    ),
    BadInput(
        "teacher that took unannotated organs for background",
        f"{TRAIN_MIXED} new --distil blind",
        r"teacher blind learnt from \d+ training cases that what they do not annotate is background",
    ),
    BadInput(
        "folds of a student", f"{TRAIN} new --folds 2 --distil run", r"--distil with folds: .*Train one student on all"
    ),
    BadInput(
        "weight of a teacher above 1", f"{TRAIN} new --distil run --distil-weight 2", r"weight 2. Give .*at most 1"
    ),
    BadInput(
        "temperature without a teacher",
        f"{TRAIN} new --distil-temperature 3",
        r"there is no --distil, but its temperature",
    ),
    BadInput("cuda where there is none", f"{TRAIN} new --machine.accelerator cuda", r"no CUDA GPU. Choose cpu or auto"),
    BadInput(
        "store without training cases", f"{TRAIN} new", r"store has no training cases. Prepare", no_training_cases
    ),
    BadInput(
        "a case of the store is damaged",
        f"{TRAIN} new",
        r"case 'patients__Case_0000\d': labels.npy is damaged",
        damaged_case,
    ),
]

PREDICTION = [
    BadInput(
        "output is another kind of file",
        "predict scan.nii.gz names.json --weights run",
        r"names.json is another kind of file",
    ),
    BadInput(
        "scans of a data set to one file",
        "predict abdomenct1k=patients out.nii.gz --weights run",
        r"abdomenct1k=patients is a folder, so the output must be one too, not out.nii.gz",
    ),
    BadInput(
        "the run does not tell its splits",
        "predict abdomenct1k=patients out --weights run --split test",
        r"run/run.json is damaged: it does not list the cases of 'test'",
        lambda: text("run/run.json", "{}"),
    ),
    BadInput("scan is missing", "predict scam.nii.gz out.nii.gz --weights run", r"no scan at scam.nii.gz"),
    BadInput("weights are missing", "predict scan.nii.gz out.nii.gz --weights rum", r"no weights at rum. Give a run's"),
    BadInput(
        "folder without weights", "predict scan.nii.gz out.nii.gz --weights data", r"data holds no best.safetensors"
    ),
    BadInput(
        "weights cut off",
        PREDICT,
        r"best.safetensors: not a readable safetensors file.*Copy it again",
        lambda: cut_off(BEST),
    ),
    BadInput(
        "weights are a pickle (.pth)",
        "predict scan.nii.gz out.nii.gz --weights model.pth",
        r"model.pth: weights are read from .safetensors only. Pickles .* never opened.*best.safetensors",
        lambda: Path("model.pth").write_bytes(PICKLE),
    ),
    BadInput(
        "weights of another program",
        "predict scan.nii.gz out.nii.gz --weights other.safetensors",
        r"other.safetensors: .*not one of viscera's",
        other_weights,
    ),
    BadInput(
        "a file that is only named as DICOM",
        "predict slice.dcm out.nii.gz --weights run",
        r"slice.dcm is neither a folder, a ZIP nor a DICOM file. Check the path",
        lambda: text("slice.dcm", "DICM"),
    ),
    BadInput("misspelt organ", f"{PREDICT} --organs livr", r"has no 'livr'. Did you mean 'liver'"),
    BadInput(
        "output exists and is somebody else's",
        PREDICT,
        r"out.nii.gz exists already, and not from this command. Pass --overwrite",
        lambda: nifti("out.nii.gz", organs()),
    ),
    BadInput(
        "folder of files that are only named as DICOM",
        "predict series out --weights run",
        r"series has no CT series: 1 file is not a CT slice and was left out .not DICOM 1",
        lambda: text("series/0001.dcm", "DICM"),
    ),
    BadInput(
        "folder without scans",
        "predict empty out --weights run",
        r"empty holds no .nii or .nii.gz file",
        lambda: text("empty/notes.txt", "none"),
    ),
    BadInput(
        "another kind of file as the output",
        "predict scan.nii.gz out.nrrd --weights run",
        r"out.nrrd is neither a folder's name nor ends in .nii.gz or .nii",
    ),
    BadInput(
        "folder of scans to one file",
        "predict patients/Image out.nii.gz --weights run",
        r"Image is a folder, so the output must be one too, not out.nii.gz",
    ),
    BadInput(
        "one of a folder's scans cut off",
        "predict data/Image out --weights run",
        r"1 of 2 scans segmented.*Case_00002_0000 ; data/Image/Case_00002_0000.nii.gz ; .*truncated.* ; Copy or export",
        lambda: bad_bytes(SCAN, keep=900),
        survives="out/Case_00001.nii.gz",
    ),
    BadInput(
        "sform and qform of the scan disagree",
        PREDICT,
        r"note: scan.nii.gz: sform and qform .* 8\d\.\d mm apart; the sform is used",
        lambda: nifti("scan.nii.gz", hu(), qoffset_x=80),
        exit_code=0,
        survives="out.nii.gz",
    ),
    BadInput(
        "unit of the scan's header is metre",
        PREDICT,
        r"scan.nii.gz: its header counts in metres.*millimetres",
        lambda: nifti("scan.nii.gz", hu(), xyzt_units=1),
    ),
    BadInput(
        "labels given as the scan",
        "predict patients/Mask/Case_00001.nii.gz out.nii.gz --weights run",
        r"Case_00001.nii.gz: intensities from 0 to 4 are not HU",
    ),
    BadInput("--split without a data set", f"{PREDICT} --split test", r"--split test needs a data set as LAYOUT=DIR"),
]

EVALUATION = [
    BadInput(
        "--labels names no file",
        "evaluate truth.nii.gz truth.nii.gz --labels nowhere.json",
        r"nowhere.json: no such file. Check the path of --labels",
    ),
    BadInput(
        "the names of the labels are a list",
        "evaluate truth.nii.gz truth.nii.gz",
        r"truth.nii.gz: nothing names its labels",
        lambda: text("truth.json", '["liver"]'),
    ),
    BadInput(
        "negative number of processes",
        "evaluate truth.nii.gz truth.nii.gz --jobs -2",
        r"--jobs must not be negative, got -2",
    ),
    BadInput(
        "prediction on another grid",
        "evaluate truth.nii.gz cropped.nii.gz --labels names.json",
        r"cropped: predicted labels lie on another grid than the truth \(7x16x16.*8x16x16",
        lambda: nifti("cropped.nii.gz", organs()[:, :, :7]),
    ),
    BadInput(
        "nothing names the labels",
        "evaluate truth.nii.gz unnamed.nii.gz",
        r"unnamed.nii.gz: nothing names its labels.*unnamed.json.*--labels",
        lambda: nifti("unnamed.nii.gz", organs()),
    ),
    BadInput(
        "truth and prediction share no organ",
        "evaluate truth.nii.gz heart.nii.gz",
        r"truth \(liver, .*prediction \(heart\) share no organ",
        lambda: (nifti("heart.nii.gz", organs(spleen=1)), text("heart.json", {"labels": {"1": "heart"}})),
    ),
    BadInput(
        "label that the names lack",
        "evaluate truth.nii.gz strange.nii.gz --labels names.json",
        r"prediction holds label 9.*\[1, 2, 3, 4\].*Correct",
        lambda: nifti("strange.nii.gz", organs(spleen=9)),
    ),
    BadInput(
        "prediction of one case is missing",
        "evaluate abdomenct1k=patients predictions --json new.json",
        r"Case_00003.*no prediction.*Segment this case",
        lambda: predictions("Case_00001", "Case_00002"),
        survives="new.json",
    ),
    BadInput(
        "a scan given as labels",
        "evaluate truth.nii.gz scan.nii.gz --labels names.json",
        r"prediction holds values from -\d+ to \d+, which are not labels.*Is it a scan",
    ),
    BadInput("truth is missing", "evaluate nowhere truth.nii.gz", r"nowhere: no such file or folder"),
    BadInput("truth without a prediction", "evaluate truth.nii.gz", r"pairs of TRUTH and PREDICTION, got truth.nii.gz"),
    BadInput(
        "names of predictions match no case",
        "evaluate abdomenct1k=patients predictions",
        r"no file in predictions belongs to any of the 3.*expected names like Case_00001.nii.gz, found a.nii.gz",
        lambda: predictions("a"),
    ),
    BadInput(
        "output exists",
        "evaluate truth.nii.gz truth.nii.gz --json names.json",
        r"names.json exists already. Choose another name or pass --overwrite",
    ),
]

MIXING = [
    BadInput(
        "annotated.json names an organ that this data set never labels",
        PREPARE,
        r"annotated.json: no label of case 'Case_00001' holds 'gallbladder'. Its labels are liver, kidney.*Correct",
        lambda: text("data/annotated.json", {"*": ["liver", "gallbladder"]}),
    ),
    BadInput(
        "a case that annotates nothing",
        PREPARE,
        r"none of its annotated organs is in label space 'abdomenct1k', so nothing can be learnt from it \(1 case\)\n"
        r".*new: 1 training, 0 validation, 0 test",
        lambda: (pair("Case_00002", hu(2)), text("data/annotated.json", {"Case_00002": []})),
        exit_code=0,
        survives="new/cases/data__Case_00002/case.json",
    ),
    BadInput(
        "one scan on two sides of the split",
        f"{TRAIN_MIXED} new",
        r"mixed: lesser__Case_0000\d \(training\) and .* \(validation\) hold the same scan.*Delete splits.json",
        lambda: edited_cases("mixed", image_sha256="the same"),
    ),
    BadInput(
        "an organ that no training case annotates",
        f"{TRAIN_MIXED} new",
        r"note: no training case annotates kidney, spleen, pancreas: the network will never find them. Add a data set",
        lambda: edited_cases("mixed", annotated=["liver"]),
        exit_code=0,
        survives="new/best.safetensors",
    ),
    BadInput(
        "sigmoid loss of a network with softmax heads",
        "train edited.json mixed new",
        r"network.heads is softmax, but loss.kind is sigmoid.*needs sigmoid heads",
        lambda: edited_recipe(loss={"kind": "sigmoid"}),
    ),
    BadInput(
        "weight of a loss out of range", f"{TRAIN_MIXED} new --loss.exclusion -1", r"loss.exclusion: .*0 \(got -1\.0\)"
    ),
    BadInput(
        "window that is not a multiple of 16",
        f"{TRAIN_MIXED} new --sampling.window 20 32",
        r"sampling.window.*multiple of 16 \(got 20\)",
    ),
    BadInput("one teacher", "pseudolabel teacher0 mixed", r"two or more different teachers, got teacher0.*seed 1"),
    BadInput(
        "the same teacher twice",
        "pseudolabel teacher0 teacher0 mixed",
        r"two or more different teachers, got teacher0, teacher0; equal weights are one teacher. Train another",
    ),
    BadInput(
        "teachers label cases that they were trained on",
        PSEUDOLABEL,
        r"note: teachers were trained on 1 of the 1 cases that they are to label.*--sampling.fold",
        exit_code=0,
        survives="mixed/pseudolabels.csv",
    ),
    BadInput(
        "teachers were trained on test cases of the store",
        PSEUDOLABEL,
        r"teacher teacher0 was trained on 2 of the store's validation and test cases \(lesser__.*Train teachers on the train",
        lambda: exchanged_splits("mixed"),
    ),
    BadInput(
        "teachers of another label space",
        PSEUDOLABEL,
        r"teacher teacher0 cannot label this store: mixed was prepared for label space 'others'.*Train teachers on this",
        lambda: other_space("mixed"),
    ),
    BadInput(
        "a teacher learnt that unannotated is background",
        "pseudolabel blind teacher0 mixed",
        r"teacher blind learnt from 1 training cases that what they do not annotate is background.*loss.kind is partial",
    ),
    BadInput("confidence above 1", f"{PSEUDOLABEL} --confidence 1.5", r"confidence must lie between 0 and 1, got 1.5"),
    BadInput(
        "nothing to fill in",
        "pseudolabel teacher0 teacher1 store",
        r"nothing to fill in: every .*case of store .*annotates all organs of 'abdomenct1k'",
        exit_code=0,
    ),
    BadInput(
        "--annotated names no file",
        "evaluate truth.nii.gz truth.nii.gz --annotated nowhere.json",
        r"nowhere.json: no such file or store. Check the path of --annotated",
    ),
    BadInput(
        "--annotated says nothing of a case",
        "evaluate truth.nii.gz truth.nii.gz --annotated own.json",
        r"own.json does not say which organs the data set of case 'truth' annotates.*Add \"truth\"",
        lambda: text("own.json", {"Case_00001": ["liver"]}),
    ),
    BadInput(
        "--annotated names an organ that is not there",
        "evaluate truth.nii.gz truth.nii.gz --annotated own.json",
        r"own.json: neither truth nor prediction of case 'truth' can hold 'livr'. Did you mean 'liver'",
        lambda: text("own.json", {"*": ["livr"]}),
    ),
    BadInput(
        "confusion of slices",
        "evaluate truth.nii.gz truth.nii.gz --mode slices --confusion",
        r"--confusion counts whole volumes, which --mode slices does not judge. Leave one of them out",
    ),
]

OTHERS = [
    BadInput("misspelt verb", "evalute truth.nii.gz out.nii.gz", r"no verb 'evalute'. Did you mean 'evaluate'"),
    BadInput("report of a folder that is none of ours", "report data", r"data is neither a run .* nor a store"),
    BadInput(
        "report of a file that is none of ours",
        "report names.json",
        r"names.json is not an evaluation.*viscera evaluate",
    ),
    BadInput("report of nothing", "report nowhere", r"nowhere does not exist. Pass"),
    BadInput(
        "picture of labels on another grid",
        "view scan.nii.gz cropped.nii.gz --png look.png",
        r"cropped.nii.gz: labels lie on another grid than the image \(7x16x16.*8x16x16",
        lambda: (nifti("cropped.nii.gz", organs()[:, :, :7]), copies("names.json", "cropped.json")),
    ),
    BadInput(
        "picture with scan and labels exchanged",
        "view truth.nii.gz scan.nii.gz --png look.png",
        r"prediction holds values .*not labels.*Is it a scan",
    ),
    BadInput("misspelt topic", "info recipe", r"no topic 'recipe'. Did you mean 'recipes'"),
    BadInput(
        "synthetic data set with a misspelt organ",
        "synth new --annotate livr --cases 1",
        r"'livr'.*Did you mean 'liver'",
    ),
    BadInput(
        "synthetic data set in a misspelt layout",
        "synth new --layout nnunt",
        r"no layout 'nnunt'. Did you mean 'nnunet'",
    ),
    BadInput(
        "server for other machines without a token",
        "serve new --host 0.0.0.0",
        r"--host 0.0.0.0 can be reached from other machines.*Pass --token SECRET",
    ),
    BadInput(
        "server with a token that can be guessed",
        "serve new --token secret",
        r"--token must have at least 12 characters",
    ),
    BadInput("server whose folder is a file", "serve names.json --port 0", r"names.json cannot be used as a folder"),
    BadInput(
        "server with weights that are not there", "serve new --port 0 --weights nowhere", r"no weights at nowhere"
    ),
    BadInput(
        "server at an address of another machine",
        "serve new --host 192.0.2.1 --token 123456789012",
        r"192.0.2.1 port 8000 cannot be used",
    ),
    BadInput(
        "node for other machines without named callers",
        "listen queue --host 0.0.0.0",
        r"--host 0.0.0.0 can be reached from other machines.*--callers AET",
    ),
    BadInput(
        "node with a title that is too long", "listen queue --aet SEGMENTATION_NODE_1", r"--aet: .* is no AE title"
    ),
    BadInput(
        "results to an address that is none",
        "listen queue --send-to archive",
        r"--send-to: 'archive' is no destination.*AET@HOST:PORT",
    ),
    BadInput(
        "results to an address with a password in it",
        "listen queue --send-to http://me:secret@archive/dicom-web",
        r"holds a user name or password.*other users of this machine can see",
    ),
    BadInput("half of what TLS needs", "listen queue --tls-cert own.pem", r"both a certificate and its key"),
    BadInput(
        "authority that is not there",
        "listen queue --send-tls-ca none.pem",
        r"TLS files cannot be used.*--send-tls-ca",
    ),
    BadInput(
        "results without TLS, for which an authority is named",
        "listen queue --send-tls-ca own.pem --send-to http://archive/dicom-web",
        r"'http://archive/dicom-web' is without TLS, which --send-tls-ca asks for.*https://",
    ),
    BadInput("cohort that is written nowhere", "collect data", r"nothing is to be written.*--out cohort.csv"),
    BadInput(
        "cohort of a folder without results",
        "collect data --out cohort.csv",
        r"data holds no JSON file. Give the folders that viscera predict wrote",
    ),
    BadInput(
        "archive at an address that is none",
        "predict dicomweb:archive out --write seg",
        r"'archive' is no http:// address",
    ),
]
